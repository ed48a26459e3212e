"""Words of the field: addresses, messages, commands, outcomes, errors, limits and ports.

Everything above imports from here; nothing here imports from above. No I/O, no clock, no
randomness.
"""
