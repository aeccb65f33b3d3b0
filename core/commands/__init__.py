"""What `python -m core` can do, one file a group of commands.

Each file has `add(commands)`, which describes its commands to argparse, and one function a command, which takes the
parsed options. Torch is imported only inside the commands that compute.
"""
