"""What runs next to the untrusted code or in its process: the supervisor, its zygote, and one
process per job.

``supervisor`` runs as a script, so these modules import each other by their bare names. Otherwise
they import only the standard library. The trusted side imports only ``codec`` and ``wire``.
"""
