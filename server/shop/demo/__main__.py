"""``python -m shop.demo``: exit code 0 if every promise held, else 1."""

import os
import sys

if __name__ == "__main__":
    # gRPC reads this when it is imported. Its log lines about connections that are cut on purpose would only distract.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from shop.demo.main import main

    sys.exit(main())
