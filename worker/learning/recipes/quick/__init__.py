"""The recipe of the service: small networks on image features, trained in seconds on a CPU.

It must not depend on the gate.
"""
