"""What people see of the queue and of what was learned, and what they may change: for the commands and the status page.

It must not know how any of it is shown.
"""
