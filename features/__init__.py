"""What pixels say without learning.

Takes the slice table and the raw series; makes the pixel store (int16 HU inside a lung box at a
set spacing, one immutable file an exam) and measured numbers per slice and exam. The networks
read the store, the stack reads the numbers.
"""
