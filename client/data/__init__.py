"""From a site's files to patients' images and masks: layouts, splits into patients, and a survey of the site's data."""
