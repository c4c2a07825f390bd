"""The HiPPO matrices that state-space models start from."""

import numpy as np


def legs(size: int) -> np.ndarray:
    """Return the HiPPO-LegS matrix, `(size, size)` in float64.

    ```
    A[n, k] = -sqrt((2n + 1) (2k + 1))  for n > k,  -(n + 1) for n = k,  0 for n < k
    ```

    Gu et al., "HiPPO: recurrent memory with optimal polynomial projections", 2020,
    arXiv:2008.07669.
    """
    n = np.arange(size)
    root = np.sqrt(2 * n + 1)
    return -np.tril(np.outer(root, root)) + np.diag(n)


def normal_legs(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Diagonalise HiPPO-N, the normal part of HiPPO-LegS.

    HiPPO-LegS is HiPPO-N less the outer product of `sqrt(n + 1/2)` with itself, so HiPPO-N is
    `-1/2 I` plus an antisymmetric matrix: normal, with eigenvalues of real part -1/2.

    Returns:
        The eigenvalues by rising imaginary part, and the unitary matrix whose columns are the
        eigenvectors: `HiPPO-N = V diag(eigenvalues) V^H`.

    Gu et al., "Efficiently modeling long sequences with structured state spaces", 2022,
    arXiv:2111.00396.
    """
    low_rank = np.sqrt(np.arange(size) + 0.5)
    normal = legs(size) + np.outer(low_rank, low_rank)
    antisymmetric = (normal - normal.T) / 2
    imaginary, vectors = np.linalg.eigh(-1j * antisymmetric)
    return -0.5 + 1j * imaginary, vectors
