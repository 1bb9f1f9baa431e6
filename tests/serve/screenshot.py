"""Takes the README's picture of the page: a real server under load, in a real browser, at twice the pixels.

python tests/serve/screenshot.py [FILE.webp] [--theme dark|light] [--size 1600x1000]
"""

import argparse
import base64
import random
import shutil
import sys
import threading
import time
from pathlib import Path

from selenium import webdriver

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))
from serving import Server

SUBJECTS = ("river", "lamp", "harbour", "orchard", "winter", "market", "bridge", "lighthouse")
FLAGS = ("--max-num-seqs", "14", "--max-num-batched-tokens", "64", "--num-gpu-blocks-override", "280")


def ask_for_ever(server: Server, seed: int, stop: threading.Event) -> None:
    """One client after another: prompts of 20 to 300 tokens, answers of 200 to 700."""
    rng = random.Random(seed)
    while not stop.wait(rng.expovariate(4)):
        words = " ".join(rng.choice(SUBJECTS) for _ in range(rng.choice((6, 30, 80, 160))))
        server.complete(prompt=f"{rng.random()} {words}", max_tokens=rng.randrange(200, 700), ignore_eos=True)


def main() -> None:
    """Writes the picture and says how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "file", nargs="?", type=Path, default=Path(__file__).parents[2] / "bench" / "results" / "page.webp"
    )
    parser.add_argument("--theme", choices=("dark", "light"), default="dark")
    parser.add_argument("--size", default="1600x1000")
    parser.add_argument("--quality", type=int, default=82)
    parser.add_argument("--clients", type=int, default=6)
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    stop = threading.Event()
    with Server(*FLAGS) as server:
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        clients = [threading.Thread(target=ask_for_ever, args=(server, i, stop)) for i in range(arguments.clients)]
        try:
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            browser.get(server.url)
            browser.execute_script("localStorage.setItem('warpjet.theme', arguments[0])", arguments.theme)
            browser.refresh()
            while not browser.execute_script("return window.warpjet?.connected"):
                time.sleep(0.1)
            for client in clients:
                client.start()
            browser.execute_script("document.getElementById('keep').click()")
            time.sleep(6)  # the timeline and the charts fill
            while browser.execute_script("return window.warpjet.running") < 10:
                time.sleep(0.02)
            browser.execute_script("document.getElementById('pause').click(); document.activeElement.blur()")
            # Twice the pixels only now: drawing them without a GPU takes the cores that the engine works on.
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics | {"deviceScaleFactor": 2})
            browser.execute_script("document.getElementById('pause').click()")
            time.sleep(0.5)
            shot = {"format": arguments.file.suffix[1:], "captureBeyondViewport": False}
            if arguments.file.suffix != ".png":
                shot["quality"] = arguments.quality
            picture = base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", shot)["data"])
        finally:
            stop.set()
            browser.quit()
            for client in clients:
                client.join()
    arguments.file.write_bytes(picture)
    print(f"{arguments.file}: {len(picture) / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
