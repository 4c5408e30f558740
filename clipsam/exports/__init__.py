"""Runs in the formats of other tools: COCO, Label Studio, supervision, FiftyOne, CSV; one file per format.

Input: a run folder. Output: files, or objects of those tools' own. Each format starts from `inspected.py`.
"""
