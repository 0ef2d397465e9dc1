"""Speed: the measurements of `zeromask bench`, of the real product except where a stand-in is named.

A measurement must not depend on how its figures are compared or shown; timing, services and emulation must not depend
on what is measured with them.
"""
