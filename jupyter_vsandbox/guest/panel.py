"""What ``%vsandbox`` alone shows: widgets where the front end has them, plain text elsewhere."""

from typing import Any, Callable, Dict

from .asking import VSandboxError

VIEW = "application/vnd.jupyter.widget-view+json"


class Panel:
    """State, history and buttons.

    Args:
        magics: what the buttons do, see `magics.Magics`.
    """

    def __init__(self, magics):  # type: (Any) -> None
        self._magics = magics

    def text(self):  # type: () -> str
        """The plain form."""
        from . import magics

        status = magics.status_text(self._magics.ask("status"))
        return "{}\n\n{}\n\n%vsandbox? shows what can be done.".format(
            status, magics.history_text(self._magics.ask("history"))
        )

    def _repr_mimebundle_(self, **_):  # type: (Any) -> Dict[str, Any]
        bundle = {"text/plain": self.text()}  # type: Dict[str, Any]
        try:
            model_id = self._widgets().model_id
        except Exception:  # noqa: BLE001 - no ipywidgets, or of another age: then there is the text
            return bundle
        # By hand: ipywidgets before 8 have no bundle, they display themselves.
        bundle[VIEW] = {"version_major": 2, "version_minor": 0, "model_id": model_id}
        return bundle

    def _widgets(self):  # type: () -> Any
        import ipywidgets

        state = ipywidgets.HTML()
        name = ipywidgets.Combobox(placeholder="name of a snapshot or fork")
        said = ipywidgets.Output()

        def refresh():  # type: () -> None
            import html

            try:
                text = self.text()
                name.options = [each["name"] for each in self._magics.ask("history")]
            except VSandboxError as error:
                text = str(error)
            state.value = "<pre style='margin:0'>{}</pre>".format(html.escape(text))

        def button(text, act):  # type: (str, Callable[[], Any]) -> Any
            made = ipywidgets.Button(description=text)

            def clicked(_):  # type: (Any) -> None
                said.clear_output()
                with said:
                    try:
                        act()
                    except VSandboxError as error:
                        print(error)
                refresh()

            made.on_click(clicked)
            return made

        ask = self._magics.ask
        # A button is pressed between two cells, so nothing has to wait for the end of one.
        buttons = [
            button("Snapshot", lambda: ask("snapshot", name=name.value)),
            button("Roll back", lambda: ask("rollback", snapshot=name.value)),
            button("Fork", lambda: ask("fork", name=name.value)),
            button("Hibernate", lambda: ask("hibernate")),
            button("Refresh", lambda: None),
        ]
        refresh()
        self._magics.refresh = refresh  # after each cell; the latest panel is the live one
        return ipywidgets.VBox([state, ipywidgets.HBox([name] + buttons), said])
