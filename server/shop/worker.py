"""``python -m shop.worker``: one of the processes of a shop, which its supervisor starts and stops."""

import sys

if __name__ == "__main__":
    from shop.main import work

    sys.exit(work())
