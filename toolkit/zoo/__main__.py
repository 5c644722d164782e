"""python -m toolkit.zoo [NAME]: the models that ship, or the card of one."""

import sys

from toolkit.zoo import main

if __name__ == "__main__":
    sys.exit(main())
