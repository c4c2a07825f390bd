"""The kernels: each recurrence on each platform, and nothing that knows about models.

`kernels/<implementation>/<family>.py` offers `supports(case)`, which is None or the reason why
that implementation declines, and one function per primitive of the family. `README.md` beside this
file has the mathematics.
"""
