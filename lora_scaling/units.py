"""Conversions that several rooms need."""

JOULES_PER_KWH = 3.6e6
GB_PER_GIB = 2**30 / 1e9  # a device that is sold with some GB of memory has at most as many GiB
