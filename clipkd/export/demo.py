"""A page on this machine on which one drops an image and sees the student's classes."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from clipkd.core.errors import ClipkdError, InputError, MachineError
from clipkd.core.progress import say

if TYPE_CHECKING:
    from clipkd.export.model import Model

HOST = "127.0.0.1"
"""Never another one: the page asks nobody who they are."""


def check_package() -> None:
    """Raise MachineError where gradio is not installed."""
    if find_spec("gradio") is None:
        raise MachineError("the package gradio is not installed; run `pip install 'clipkd[demo]'`")


def serve(model: Model, top: int, port: int | None) -> None:
    """Serve the page until the process is stopped; images that were dropped are deleted then.

    Raises:
        InputError: the port is taken, or the student was trained without labels.
        MachineError: gradio is not installed.
    """
    model.refuse_without_classes()
    check_package()
    with TemporaryDirectory(prefix="clipkd-demo-") as folder:
        # Read while gradio is imported: nothing is sent anywhere, and no image stays.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_TEMP_DIR": folder}
        server = page(model, top)
        try:
            _, address, _ = server.launch(
                server_name=HOST, server_port=port, share=False, quiet=True, prevent_thread_lock=True, inbrowser=False,
                enable_monitoring=False, theme=theme(),
            )  # fmt: skip
        except OSError:
            raise InputError(f"port {port or '7860 to 7959'} is taken: choose another one with --port") from None
        say(f"open {address} in a browser on this machine; Ctrl-C ends it")
        try:
            server.block_thread()
        finally:
            server.close()


def theme() -> Any:
    """Return gradio's theme with fonts of the browser: its own come from the internet."""
    import gradio

    return gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])


def page(model: Model, top: int) -> Any:
    """Return the page, yet to be served."""
    import gradio

    def classify(path: str | None) -> dict[str, float]:
        if path is None:
            return {}
        try:
            (found,) = model.predict(Path(path), top)
        except ClipkdError as error:
            raise gradio.Error(str(error)) from None
        return {one.label: one.probability for one in found}

    trained = model.trained
    return gradio.Interface(
        classify,
        gradio.Image(type="filepath", image_mode=None, sources=["upload", "clipboard"], label="image"),
        gradio.Label(num_top_classes=top, label="classes"),
        title=f"{trained['student']} on {trained['dataset']}",
        description="Drop an image. It stays on this machine.",
        flagging_mode="never",
        live=True,
        analytics_enabled=False,
    )
