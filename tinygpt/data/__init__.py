"""From files to batches: which files, which part is held out, which tokens stand in a batch.

`discover` finds and reads source files, `corpus` divides and encodes them, `windows` cuts the tokens into sequences.
"""
