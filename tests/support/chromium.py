"""Start the Chromium of the browser tests and of the screenshots."""

import shutil


def launch(playwright):
    """A headless browser; the system's own, for none is downloaded."""
    return playwright.chromium.launch(
        executable_path=shutil.which("chromium") or "/usr/bin/chromium",
        args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
    )
