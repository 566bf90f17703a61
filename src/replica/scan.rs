//! Reads a source by SCAN.
