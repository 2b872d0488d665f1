"""Hold the text of `relay --help`: all commands, grouped by the user's task."""

HELP = """\
relay – hospitals hand one segmentation model on, and no image leaves.

Each hospital trains on its own prostate MRI only. The weights travel from site
to site, or are averaged, and patients held out at every site say which of the
two serves whom better.

See it work
  relay demo                     three synthetic hospitals, a whole study on
                                 them, its table and its page

Your own hospitals, all on this machine
  relay site check SITE.toml     what lies at a site, and what is wrong with it
  relay study plan STUDY --site A=SITE.toml --site B=SITE.toml ...
                                 what a study will ask for: trainings, gradient
                                 steps, bytes, hours on this machine
  relay simulate STUDY.toml --site A=SITE.toml --site B=SITE.toml ...
                                 run a study, or go on with a stopped one

Hospitals that are really apart: at the coordinator
  relay enroll coordinator --host NAME
                                 make its authorities, certificates, gateway
  relay enroll site NAME REQUEST let a hospital in; makes the kit it gets back
  relay enroll list | revoke NAME | renew
  relay coordinator start        run the coordinator's programs
  relay coordinator service      print a systemd unit that does so
  relay study hash STUDY.toml    the digits that hospitals compare by telephone
  relay study run STUDY.toml     run a study on the hospitals, and follow it
  relay study stop DIR           stop it; what is finished is kept
  relay courier pack NAME        seal orders for a hospital without a network
  relay courier take FILE        bring its answers in
  relay study status             who is there, who is missing

Hospitals that are really apart: at each hospital
  relay site init SITE.toml --name NAME
                                 make its file, its keys, its request
  relay site join SITE.toml KIT  take the coordinator's kit
  relay site fetch SITE.toml --from URL
                                 series and labels from the hospital's archive
  relay site approve SITE.toml STUDY.toml
                                 what a study would run here and what would
                                 leave, in plain words; approve it, or not
  relay site start SITE.toml     be there for the coordinator's orders
  relay courier run SITE.toml ORDER
                                 at a hospital without a network, in the place
                                 of relay site start
  relay site service SITE.toml   print a systemd unit that does so, or a
                                 compose file
  relay site serve SITE.toml     all of this on a page in a browser, for this
                                 machine alone
  relay site audit SITE.toml     all that left, line by line; --verify finds a
                                 changed line
  relay site leave SITE.toml [STUDY]
                                 take part no longer, at once
  relay site forget SITE.toml [STUDY]
                                 remove caches and checkpoints

What came out
  relay report DIR               make report.html of a result folder again
  relay export DIR --csv OUT     rows, scores, folds, patients and learning
                                 curves as CSV files
  relay export DIR --tensorboard OUT
                                 the same curves and scores for TensorBoard
  relay export WEIGHTS --onnx OUT.onnx
                                 a model for other programs, with its card
  relay study verify DIR         hold every record and weights file against its
                                 digest and lineage

What a hospital gets out of it
  relay site receive SITE.toml --to DIR
                                 weights, their model cards, and a letter of one
                                 page: what taking part brought this hospital
  relay predict WEIGHTS SERIES -o mask.nii.gz
                                 draw the gland in a DICOM series or a volume

Data to try things on
  relay phantom DIR              write the synthetic hospitals alone

Everywhere
  relay COMMAND --help           what a command takes
  relay --version                which relay this is
  relay --debug COMMAND ...      show where in the program an error arose
  relay --install-completion     let the shell complete commands and options

A study that was stopped, by Ctrl-C or by a power cut, goes on where it was when
the same command is started again. The exit code is 0 only if everything that
was asked for was done.
"""
