"""Which files of a data set are its images."""

from training.data import passed_over
from training.data.images import is_image_name
from training.data.labels import LABEL_FILE, base_of
from training.data.storage import DatasetError, FolderFiles, ZipFiles


def image_names(files: FolderFiles | ZipFiles) -> list[str]:
    """The images, in plain string order. Raises a DatasetError if there are none."""
    names = [name for name in files.names if is_image_name(name)]
    if not names:
        rest = what_is_passed_over(files)
        raise DatasetError(f'{files.path}: no images in it (.png, .jpg, .webp and so on), nor in its subfolders'
                           + (f'; {rest}' if rest else ''))
    return names


def what_is_passed_over(files: FolderFiles | ZipFiles) -> str:
    """All that is neither an image nor a label file, in words; '' if there is nothing."""
    others = (name for name in files.names
              if base_of(name) != LABEL_FILE and not is_image_name(name))
    return passed_over.in_words(files.left_out + passed_over.kinds_by_ending(others))
