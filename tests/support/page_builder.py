"""The page as Gradio blocks, built without a server."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from qformer_viz import ui


def build(services):
    """The page, built inside a loop: outside one Gradio makes its own and leaves it open. In a thread, for
    Playwright keeps a loop of its own in this one."""

    async def inside():
        return ui.build(services)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, inside()).result()
