"""``python -m shop``."""

import os
import sys

if __name__ == "__main__":
    # gRPC reads this when it is imported. Its own log lines would repeat what main prints.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from shop.main import main

    sys.exit(main())
