"""How ranks add up gradients: what a step asks for (`exchange.py`), and Horovod's way.

With `launch` the only room that imports Horovod, and only where there is more than one rank.
"""
