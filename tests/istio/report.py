"""What held and what did not, by name."""
import time
import traceback


class Report:
    def __init__(self):
        self.held, self.broken = [], []
        self.began = time.monotonic()

    def check(self, name, is_good, detail=""):
        """One behaviour. `detail` is shown where it does not hold; a function is called then."""
        mark = "ok    " if is_good else "BROKEN"
        print(f"{time.monotonic() - self.began:6.1f} {mark} {name}", flush=True)
        (self.held if is_good else self.broken).append(name)
        if not is_good:
            text = detail() if callable(detail) else detail
            print("           " + str(text)[-3000:].replace("\n", "\n           "), flush=True)

    def equal(self, name, found, expected):
        self.check(name, found == expected, lambda: f"found    {found!r}\nexpected {expected!r}")

    def run(self, name, scenario):
        """A scenario that breaks off is broken itself."""
        print(f"{time.monotonic() - self.began:6.1f} --     {name}", flush=True)
        try:
            scenario(self)
        except Exception:
            self.check(f"{name}: runs to its end", False, traceback.format_exc())
