"""A small closed world with known facts: a SIMULATION, for trying the whole platform exactly.

Nothing in it comes from a language model. Questions, flawed answers, perfect corrections and
verdicts are all computed from one seed, so that every figure the platform reports can be checked
against the truth. It says nothing about how an Aligner does on real questions.
"""
