"""What the records of a run come to, held in bounded memory and kept between two reports."""
