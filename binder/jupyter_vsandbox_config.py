"""For Binder: guests are emulated, and there are 2 GB for JupyterLab and all machines."""

c.VSandbox.accelerator = "tcg"  # type: ignore[name-defined]  # noqa: F821 - traitlets'
c.VSandbox.standby = 0  # type: ignore[name-defined]  # noqa: F821
# Six machines of 1 GB (two notebooks, a fork, a comparison), of which a fraction is ever written to.
c.VSandbox.memory_budget = 1536 * 1024**2  # type: ignore[name-defined]  # noqa: F821
c.VSandbox.memory_overcommit = 4.5  # type: ignore[name-defined]  # noqa: F821
