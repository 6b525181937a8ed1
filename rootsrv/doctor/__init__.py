"""`rootsrv doctor`: is this host fit for what the configuration wants of it, and if not, what to mend.

Every check only looks.  One that cannot look – a program or a privilege is missing – says so and how to get it.
"""
