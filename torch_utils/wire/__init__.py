"""Messages between processes that do not trust each other, and what carries them.

`message.py` says what a message is, `channel.py` what carries one, `grpc_channel.py` carries it over a network,
`certificates.py` says who is who. No pickle, no code and no class name crosses.
"""
