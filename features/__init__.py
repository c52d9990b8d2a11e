"""Pixels and measurements that need no learning.

Input: the slice table of input/prepared and the raw series. Output: the pixel store (int16 HU inside a lung box at a
fixed in-plane spacing, one immutable file per exam) and tables of measurements per slice and per exam. The networks
read the store; the stack reads the tables.
"""
