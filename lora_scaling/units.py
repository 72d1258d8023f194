"""Conversions that several rooms need."""

JOULES_PER_KWH = 3.6e6
