"""python run.py …: the command `gtcrn …` of this checkout."""

from gtcrn.__main__ import main

if __name__ == "__main__":
    main()
