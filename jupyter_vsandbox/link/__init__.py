"""The host's end of the connection to a guest's agent."""

from jupyter_vsandbox.link.client import AgentLink, context, new_keys

__all__ = ["AgentLink", "context", "new_keys"]
