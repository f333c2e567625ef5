"""The scenarios that ship with hwbench, one idea a module. Found through entry points."""
