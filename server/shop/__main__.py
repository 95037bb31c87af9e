"""``python -m shop``."""

import os
import sys

if __name__ == "__main__":
    # gRPC reads this when it is imported. Its own lines would repeat, less readably, what main says.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from shop.main import main

    sys.exit(main())
