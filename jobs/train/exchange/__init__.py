"""How ranks add up gradients: the operations (`exchange.py`), and their transport (`horovod.py`).

Only this room and `launch` import Horovod, and only where there is more than one rank.
"""
