"""Tests of the pictures: numbers apart from drawing."""
