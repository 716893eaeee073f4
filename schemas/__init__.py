"""Declarations of data: what the raw files hold, which rows are valid, what the model sees.

`field.py` has the kinds of fields, `dataset.py` the declaration and its renderings; every other
module declares one data set.
"""
