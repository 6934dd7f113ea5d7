"""What runs next to or inside the hostile code: the supervisor, its zygote, and one process per
job.

These modules run as a script and its siblings: they import each other by their bare names, and the
standard library. The trusted side imports ``codec`` and ``wire`` alone.
"""
