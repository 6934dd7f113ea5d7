"""Kernel sources compiled with g++ and run on the CPU, one fiber per GPU thread."""
