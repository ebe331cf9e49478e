//! Quantities with units, as people write them: `"4d12h"`, `"10MiB"`, `"100/1m"`.
