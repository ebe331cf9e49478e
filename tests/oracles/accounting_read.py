"""Reads accounting files with Python's csv module: every line of every file as a line of JSON, by
the names in the header of its file. Arguments: the files, in order. A file that is no CSV of RFC
4180 (strict mode), or has a line with more or fewer cells than its header, is an error."""

import csv
import json
import sys

for path in sys.argv[1:]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file, strict=True)
        header = next(rows)
        if header[0] != "type":
            sys.exit(f"{path}: the first column is {header[0]}")
        for row in rows:
            if len(row) != len(header):
                sys.exit(f"{path}: a line with {len(row)} cells")
            print(json.dumps(dict(zip(header, row))))
