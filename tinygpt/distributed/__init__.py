"""Data parallel training on MPI: launch detection, communicator, reduction of gradients."""
