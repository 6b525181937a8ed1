"""What every process of ours needs: clocks, log, children, privileges, files that are whole or not there."""
