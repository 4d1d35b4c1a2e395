"""Running inside a job of Grid Engine (SGE 8.1.9): its nodes, its notices, its exit codes."""
