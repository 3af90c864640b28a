"""Measuring calotype beside other codecs: real bytes, read back and decoded."""
