"""Fuzzing: a stranger's file is read as what it is or refused with a LanguageModelError; nothing else happens.

Each case has a number, which is the seed of all that is done to it. With tests/ and the package on PYTHONPATH::

    python -m fuzz models --cases 10000 --processes 2
    python -m fuzz corpora --seconds 3600 --failures found
    python -m fuzz models --cases 1 --first 4711      the case of that number again

``models`` are model files and the other files of a training: checkpoints, their locks, logs. ``corpora`` are texts. ``line`` is a text of
100 MB in one line. Each failure is shown as it comes, with its number and traceback, and with ``--failures`` its files are kept; the last line
has the figures as JSON. A case fails if anything but a LanguageModelError is raised, and if it breaks a rule of ``conduct``.

==================  ===============================================================================================
module              has
==================  ===============================================================================================
``damage``          what is done to bytes
``archives``        what is done to a zip archive and its arrays
``headers``         what is done to the JSON header of a model
``model_files``     valid model files, and what is done with a spoiled one
``corpora``         texts and where they come from
``conduct``         how a case must behave: what it may leave behind, use and print
``work``            the work that the worst shapes of texts take, at two sizes
``workers``         processes that run cases, and the command line
==================  ===============================================================================================
"""
