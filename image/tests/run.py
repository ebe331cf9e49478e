"""Runs one file of the image's tests, test_NAME.py, and counts as scripts/test does.

    run.py NAME
"""

import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent


def main():
    sys.path.insert(0, str(HERE))
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    suite = unittest.defaultTestLoader.loadTestsFromName(f"test_{sys.argv[1]}")
    result = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(suite)
    failed = len(result.failures) + len(result.errors)
    for test, why in result.skipped:
        print(f"skipped: {test}: {why}")
    print(f"image tests: {result.testsRun - failed - len(result.skipped)} passed, {failed} failed, {len(result.skipped)} skipped")
    sys.exit(1 if failed or not result.testsRun else 0)


if __name__ == "__main__":
    main()
