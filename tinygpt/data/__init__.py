"""From files to batches: source files, training and validation splits, batches of tokens.

`discover` finds and reads source files, `corpus` divides and encodes them, `windows` cuts the tokens into sequences.
"""
