"""Fuzzing: an untrusted file is either read correctly or rejected with a LanguageModelError, without any other effect.

Each case has a number, which is the seed of everything that it does. With tests/ and the package on PYTHONPATH::

    python -m fuzz models --cases 10000 --processes 2
    python -m fuzz corpora --seconds 3600 --failures found
    python -m fuzz models --cases 1 --first 4711      repeats the case with this number

``models`` tests model files and the other files of a training: checkpoints, their locks, and logs. ``corpora`` tests texts. ``line`` tests a
text of 100 MB in one line. Failures are printed as they occur, with their numbers and tracebacks, and ``--failures`` saves their files; the
last line of output has the statistics as JSON. A case fails if it raises anything but a LanguageModelError or breaks a rule of ``conduct``.

==================  ===============================================================================================
module              contents
==================  ===============================================================================================
``damage``          changes to bytes
``archives``        changes to a zip archive and its arrays
``headers``         changes to the JSON header of a model
``model_files``     valid model files, and the operations on a damaged one
``corpora``         texts and their sources
``conduct``         rules for cases: what they may leave behind, use and print
``work``            the work that the worst cases of texts take, at two sizes
``workers``         processes that run cases, and the command line
==================  ===============================================================================================
"""
