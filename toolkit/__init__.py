"""Train probabilistic models and turn them into working compressors."""

import os

# Threads of torch (GNU OpenMP) that wait for work spin for a millisecond. Beside another program that does so, both
# become up to ten times as slow; after a thirtieth of the time they sleep instead, which costs an idle machine a few
# percent. It has to be said before torch is imported. What a user has set stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
