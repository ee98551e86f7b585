//! Tests of the write-ahead files.
