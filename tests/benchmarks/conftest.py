"""Two BLAS threads, said before anything imports NumPy, and inherited by subprocesses."""

import os

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "2"
